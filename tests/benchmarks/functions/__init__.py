"""Are hand-written functions checked rightly, alone and in a training, and is the wrong one named?"""
