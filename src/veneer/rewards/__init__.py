"""Rewards of sampled answers: functions, commands and metrics, each called so that its failure does no harm.

Reward models share the base with the policy; see `veneer.training.rewarding.score_reward`.
"""
