"""The process in which a policy's Python runs. Standard library only: these modules are imported by a bare interpreter.

keeper    the fork server: enters the namespaces, builds the view, forks interpreters and kills them
view      the file system that they see
seal      what a new interpreter does before it reads code: limits, capabilities, Landlock, seccomp
cell      runs code and says when it is done
kernel    the system calls; filters the seccomp program
"""
