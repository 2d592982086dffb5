"""Functions with a backward pass of their own: is the wrong one named, and no other?"""
