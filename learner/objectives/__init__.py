"""What is maximised: estimators, and one short function an objective from scores and rewards to weights. Pure mathematics;
the learner comes in by `table`, evaluation by `estimators`, `majority` and `statistics`."""
