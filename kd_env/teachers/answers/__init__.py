"""Teachers that are no encoders: files of answers, and functions of texts. They say what they think of rows."""
