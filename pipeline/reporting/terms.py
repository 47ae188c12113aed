"""The words of a report, explained where it ends.

Invariant: one entry for each word that a heading of a table uses and a reader may not know.
"""

TERMS = (
    ("Label score", "The log-likelihood of a label's words after the prompt (natural logarithm): where rules start."),
    ("Rule", "How the label scores of an item become one prediction; the rules used are listed under Rules."),
    ("q and p_cf", "q is the softmax over labels of logprob. p_cf is the mean of exp(logprob) after the content-free "
                   "texts \"\", \"N/A\" and \"[MASK]\", made to sum to one over the labels."),
    ("95 % interval", "Wilson's score interval. It is about the items as a sample, not about other data sets."),
    ("Confidence", "The softmax over the labels of the rule's scores, for the label that won."),
    ("Margin", "The winning score minus the second, in the units of the rule."),
    ("Balanced", "Balanced accuracy: the mean recall of the classes."),
    ("ECE", "Expected calibration error: the mean distance between confidence and accuracy over 15 bins; 0 is best."),
    ("Brier", "The mean squared distance between softmax and gold label, summed over labels; 0 to 2, 0 is best."),
    ("At 50 %", "The accuracy on the half of the items with the highest confidence; likewise 80 % and 90 %."),
    ("Label mass", "The probability that the model gives to all label words together, on average. Where it is small, "
                   "the model would rather have said something else."),
    ("SE", "The standard error of the difference, paired: the items that both sides get right cancel."),
    ("p, p (Holm)", "McNemar's exact p-value, as it is, and raised for the number of comparisons in its family by "
                    "Holm's method."),
)  # fmt: skip

REPEAT_TERMS = (
    ("Effective number", "As how many independent items those count that share texts: (sum w)^2 / sum w^2 over texts "
                         "with w items each (Kish). Wilson's intervals are for so many."),
    ("Texts for A, for B", "The distinct texts with more items right under A, or under B. Where texts repeat, p is the "
                           "exact sign test of these two numbers."),
)  # fmt: skip
