"""Rollout topologies: how a task is played. Plain async Python over seats."""
