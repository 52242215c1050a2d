"""Methods beside one another at equal compute: ordinary runs, paired differences, one page.

arms.py says what is compared and checks it before anything is trained; runs.py trains what is missing in processes of
their own; outcome.py reads the run directories; intervals.py says what can be told apart; page.py draws it.
"""
