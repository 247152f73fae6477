"""What every report for people says, as plain data."""
