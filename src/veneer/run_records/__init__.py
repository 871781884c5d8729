"""What the folders of runs say: their states, settings and curves, read again and again while the runs go on."""
