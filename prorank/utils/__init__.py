"""Utilities that know nothing about models."""
