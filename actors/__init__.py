"""From a problem to a group of samples: the vLLM engine, the receiver of weights, the rollout worker."""
