"""What a verification found, as plain values from which every report is made."""
