"""Fine-tune a compressed module by knowledge distillation from the original."""
