"""What does a guard take, change and cost in each framework?"""
