"""What every room uses: files, pictures, drawing, errors, progress, MATLAB files, the frame of a program."""
