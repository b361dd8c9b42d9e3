"""What runs and studies show while they run: TensorBoard, and the terminal."""
