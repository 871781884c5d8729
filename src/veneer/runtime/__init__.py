"""What this program needs of Python and the operating system: signals, locks of POSIX, programs of its own."""
