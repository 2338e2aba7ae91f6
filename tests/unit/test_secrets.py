"""No password and no token leaves in what a run writes about itself; what merely mentions one stays readable."""

import time

import pytest

from distdl.run.secrets import redact, redact_values

HEX40 = "0123456789abcdef" * 2 + "01234567"
LONG = "Ab0Cd1Ef2Gh3Ij4Kl5Mn6Op7Qr8St9Uv0Wx1Yz2"

SHAPES = {
    "AWS": "AKIAIOSFODNN7EXAMPLE",
    "AWS, for a session": "ASIAIOSFODNN7EXAMPLE",
    "GitHub": f"ghp_{LONG}",
    "GitHub, fine-grained": f"github_pat_11ABC_{LONG}",
    "GitLab": f"glpat-{LONG}",
    "Hugging Face": f"hf_{LONG}",
    "wandb": HEX40,
    "wandb, new": f"wandb_v1_{LONG}",
    "OpenAI": f"sk-proj-{LONG}",
    "Anthropic": f"sk-ant-api03-{LONG}",
    "Google": f"AIza{LONG}",
    "Slack": "xoxb-123456789012-abcdef",
    "npm": f"npm_{LONG}",
    "PyPI": f"pypi-{LONG}",
    "JSON web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\n+MIIEow\n+abc\n-----END RSA PRIVATE KEY-----",
    "private key, cut off": "-----BEGIN PRIVATE KEY-----\nMIIEow\nabc",
}


@pytest.mark.parametrize("token", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("text", ["{}", "run({})", "x = '{}'", "distdl train a.yaml data.train.args.a={}"])
def test_a_token_is_known_by_its_looks_wherever_it_stands(text, token):
    redacted = redact(text.format(token))

    assert redacted.startswith(text.partition("{}")[0] + "***")
    assert not any(line in redacted for line in token.splitlines())


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("WANDB_API_KEY=abc distdl train", "WANDB_API_KEY=*** distdl train"),
        ("export HF_TOKEN=abc", "export HF_TOKEN=***"),
        ("data.train.args.token=abc optim.lr=0.1", "data.train.args.token=*** optim.lr=0.1"),
        ("aws_secret_access_key = wJal/XUt+nF", "aws_secret_access_key = ***"),
        ("dbPassword=abc", "dbPassword=***"),
        ("password=1234", "password=***"),
        ("password=-abc", "password=***"),
        ("password=abc(def", "password=***"),
        ("TOKEN_2 TOKEN2=abc", "TOKEN_2 TOKEN2=***"),
        ("AccountKey=abc==;Endpoint=x", "AccountKey=***;Endpoint=x"),
        ("--api-key abc --lr 1", "--api-key *** --lr 1"),
        ("--key 'a b' --lr 1", "--key '***' --lr 1"),
        ("--password=abc", "--password=***"),
        ("'password=my word' optim.lr=1", "'password=***' optim.lr=1"),
        ("+    api_key: 'abc'", "+    api_key: '***'"),
        ("  password: abc", "  password: ***"),
        ('password: str = "hunter2"', 'password: str = "***"'),
        ('{"auth": {"token": "a\\"b", "user": "me"}}', '{"auth": {"token": "***", "user": "me"}}'),
        ("credentials: {user: me, password: abc}", "credentials: {user: me, password: ***"),
        ("Authorization: Bearer abc123def456", "Authorization: Bearer ***"),
    ],
)
def test_a_value_is_known_by_its_name(text, left):
    assert redact(text) == left


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("s3 http://me:abc@host:9000/bucket", "s3 http://***@host:9000/bucket"),
        ("postgres://me:a@b:c@host/db", "postgres://***@host/db"),
        ("https://x-access-token:abc@github.com/a/b.git", "https://***@github.com/a/b.git"),
        ("https://abc@github.com/a/b.git", "https://***@github.com/a/b.git"),
        ("socks5://:abc@proxy", "socks5://***@proxy"),
        ("http://b/k?X-Amz-Signature=abc&part=1", "http://b/k?X-Amz-Signature=***&part=1"),
        ("https://b/k?sv=1&sig=a%2Bc", "https://b/k?sv=1&sig=***"),
    ],
)
def test_a_url_keeps_its_host_and_loses_its_user(text, left):
    assert redact(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "",
        "distdl train configs/digits/lenet5.yaml --nproc 2 optim.lr=0.1 train.seed=7",
        "max_tokens=512 tokens: [1, 2] tokenizer: bpe",
        "sorted(rows, key=lambda row: row.step)",
        "monkey=banana keyboard: qwerty",
        "token = next(tokens)",
        "token = os.environ['HF_TOKEN']",
        "def login(token: str | None = None, password=None):",
        "if token == other.token and not secret:",
        'f"token={token}"',
        "docker run -e TOKEN=$TOKEN --token $TOKEN --secret ${NAME}",
        "--token --other",
        "ssh://git@github.com/a/b.git git@github.com:a/b.git",
        "http://host:8080/a@b",
        "basic education, bearer of news",
        "torch==2.13.0+cpu sha256:" + "0123456789abcdef" * 4,
        "index 7898192..631da2f 100644",
    ],
)
def test_what_only_looks_a_little_like_a_secret_stays(text):
    assert redact(text) == text


@pytest.mark.parametrize("text", [f"token={LONG}", *SHAPES.values(), "--key abc https://a:b@c"])
def test_to_redact_twice_is_to_redact_once(text):
    assert redact(redact(text)) == redact(text)


def test_a_config_loses_the_texts_below_such_names_and_nothing_else():
    config = {
        "data": {"train": {"args": {"api_key": "abc", "keys": ["a"], "url": "https://a:b@c/d"}}},
        "model": {"args": {"tokenizer": "bpe", "token": 7, "secret": None, "key": ["abc", "def"]}},
        "optim": {"betas": (0.9, 0.99)},
    }

    assert redact_values(config) == {
        "data": {"train": {"args": {"api_key": "***", "keys": ["a"], "url": "https://***@c/d"}}},
        "model": {"args": {"tokenizer": "bpe", "token": 7, "secret": None, "key": ["***", "***"]}},
        "optim": {"betas": [0.9, 0.99]},
    }


@pytest.mark.parametrize(
    "piece",
    ["a", "-", "a.-", "a:", "'", "token", "token ", "token: ", "--token-", "eyJ.", "://a:", "AKIA", "sk-", "\n"],
)
@pytest.mark.parametrize("front", ["", "://", "--", "'", "token="])
def test_no_text_takes_long(front, piece):
    text = front + piece * (50_000 // len(piece))

    began = time.process_time()
    redact(text)

    assert time.process_time() - began < 2  # 0.1 s at most where it was written
