# Broken: an octal number as Python 2 wrote it.
mode = 0777
