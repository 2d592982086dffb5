"""Pages: how long does a reader wait for the TensorBoard tab?"""
