"""Cleaning rules: small named functions that repair drafts or say why they are refused."""
