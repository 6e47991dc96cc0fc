"""Does it matter in PPO whether dropout is the same in the rollout and in the update?"""
