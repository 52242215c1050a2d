"""Reward functions: how they are named, called and kept from harming the run.

load         "FILE.py:function" or a bundled name -> Reward
signatures   Temper's plain functions, TRL's and verl's, behind one adapter
pool, worker killable child processes, a deadline for every call
verdict      what a returned value means
checkers     the bundled ones
"""
