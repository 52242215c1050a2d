"""`temper bench`: what a trained sample costs, beside a peer and beside the arithmetic that it cannot do without."""
