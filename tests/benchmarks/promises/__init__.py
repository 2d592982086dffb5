"""Promises under faults: does a guard ever change or stop a training, or lose a record?"""
