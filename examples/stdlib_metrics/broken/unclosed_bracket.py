# Broken: the bracket of this list is never closed.
primes = [2, 3, 5, 7


def double(number):
    return 2 * number
