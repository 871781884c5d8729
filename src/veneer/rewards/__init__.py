"""What sampled answers are worth: functions, commands and metrics, each asked so that it can fail without harm.

Reward models are asked beside the base that they share with the policy, by `veneer.training.rewarding.score_reward`.
"""
