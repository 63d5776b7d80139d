"""What a user may write: the grid file, read and checked, nothing resolved."""
