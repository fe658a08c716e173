"""Samplers: what proposes plans. The guided one has a surrogate, cost tables and initial plans."""
