"""Reward functions for thinking and list-ranking models. TRL's GRPOTrainer accepts them as `reward_funcs`."""
