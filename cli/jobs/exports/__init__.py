"""`kd-env export`: a student as a folder that ships."""
