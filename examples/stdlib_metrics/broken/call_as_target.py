# Broken: the result of a call is no place to assign to.
len("abc") = 3
