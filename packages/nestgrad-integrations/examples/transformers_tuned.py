"""A Trainer of Hugging Face that tunes its learning rate."""

import tempfile

import torch
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, default_data_collator

from nestgrad import Log10
from nestgrad_integrations.transformers import OnePassCallback

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
valid = DataLoader(rows[96:], batch_size=64, collate_fn=default_data_collator)
tuner = OnePassCallback(hparams={"lr": Log10(1e-2)}, outer_batches=valid)
trainer = Trainer(model, args, train_dataset=rows[:96], eval_dataset=rows[96:], callbacks=[tuner])
before = trainer.evaluate()["eval_loss"]
trainer.train()
after, lr = trainer.evaluate()["eval_loss"], trainer.optimizer.param_groups[0]["lr"]
