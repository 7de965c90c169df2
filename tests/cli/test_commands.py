from pathlib import Path
def test_x(judge, operant, world, tuned):
    print(operant("generate", "--model", tuned, "--data", world / "prompts.jsonl", "--max-new-tokens", "12"))
    print((judge/"summary.json").read_text(), (tuned/"summary.json").read_text())
    assert 0
