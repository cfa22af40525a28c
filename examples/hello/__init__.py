"""The smallest handler there can be, for the first task of a new mesh."""
