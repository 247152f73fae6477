"""What an exported file returns beside what its model does."""
