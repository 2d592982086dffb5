"""Numerics and detection: are the error bars honest, and which gradient bugs does gradguard find?"""
