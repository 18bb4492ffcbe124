"""Training: set prediction, temporal queues, progressive quantisation, view-guided distillation."""
