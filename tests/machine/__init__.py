"""Stories told within a machine of its own (vagrant/machine-test), where the kernel has what a test machine's may lack.

Each module is a program: it says what it does and whether that is as it should be, and ends with status 1 if it is not.
"""
