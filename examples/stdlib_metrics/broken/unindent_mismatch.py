# Broken: the last line falls back to a column no block began at.
if True:
        first = 1
    second = 2
