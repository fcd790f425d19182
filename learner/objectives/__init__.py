"""What is maximised: estimators, and one short function an objective from scores and rewards to weights. Pure
mathematics. The learner comes in by `table` and `groups`; progress, evaluation and the learned verifier use
`estimators`, `majority` and `statistics`."""
