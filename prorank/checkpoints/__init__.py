"""What a checkpoint's folder says of itself."""
