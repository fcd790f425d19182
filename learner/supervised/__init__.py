"""Supervised fine-tuning: settings of [sft], demonstrations as sequences, the learner from them and its shell. The
training from scratch and `cluster` come in."""
