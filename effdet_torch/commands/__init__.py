"""The commands of this package: parse, call one function, print its report."""
