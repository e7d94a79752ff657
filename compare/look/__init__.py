"""What a result shows of every tap: figures, small pictures, and what to capture next."""
