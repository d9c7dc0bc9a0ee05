"""A Trainer of Hugging Face."""

import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

torch.manual_seed(0)
words = torch.randint(0, 8, (160, 6))
rows = [{"input_ids": row, "labels": int(row[0] < 4)} for row in words]
size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
model = BertForSequenceClassification(BertConfig(vocab_size=8, num_labels=2, **size))
args = TrainingArguments(
    output_dir=tempfile.mkdtemp(),
    max_steps=100,
    per_device_train_batch_size=32,
    optim="sgd",
    learning_rate=1e-2,
    lr_scheduler_type="constant",
    use_cpu=True,
    report_to="none",
    disable_tqdm=True,
    save_strategy="no",
)
trainer = Trainer(model, args, train_dataset=rows[:96], eval_dataset=rows[96:])
before = trainer.evaluate()["eval_loss"]
trainer.train()
after, lr = trainer.evaluate()["eval_loss"], trainer.optimizer.param_groups[0]["lr"]
