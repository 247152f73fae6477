"""One file for each library that runs exported files; it is imported where such a file is opened."""
