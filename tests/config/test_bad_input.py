"""Bad input gets exit 3: one ConfigError with file, line, field, and one hint."""

from pathlib import Path
from typing import Any

import pytest

from truss_cache_tasks import load_config
from truss_cache_tasks.config.uris import parse_repo_id
from truss_cache_tasks.errors import ConfigError
from truss_cache_tasks.model.stores import find_store


def refused(folder: Path, text: str) -> ConfigError:
    path = folder / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.hint
    assert "\n" not in str(caught.value) + caught.value.hint
    return caught.value


def check(folder: Path, text: str, start: str, says: str) -> None:
    """`start` is `LINE: FIELD`; `says` is looked for in message and hint."""
    error = refused(folder, text)
    assert str(error).startswith(f"{folder}/config.yaml:{start}: "), error
    assert says in f"{error} | {error.hint}"


@pytest.mark.parametrize(
    ("text", "start", "says"),
    [
        ("model_cache: hello", "1: model_cache", "got the string 'hello', expected a list"),
        ("model_cache: 5", "1: model_cache", "got 5, expected a list"),
        ("a: 1\nmodel_cache:\n- org/name", "3: model_cache[0]", "Write `- repo_id: org/name`."),
        ("model_cache:\n- repo_id: a/b\n-", "3: model_cache[1]", "got nothing, expected a mapping"),
        ("model_cache: {}", "1: model_cache", "repo_id is missing"),
        ("a: 1\nbdn:\n  mounts: [{source: 'bdn:ns/vol', path: /v}]", "3: bdn.mounts", "no address outside of it"),
        ("model_cache: !!set {a, b}", "1: model_cache", "expected a list"),
        ("model_cache:\n- revision: v1", "2: model_cache[0]", "repo_id is missing"),
        ("model_cache:\n- repo_id:\n  revision: v1", "2: model_cache[0]", "repo_id is missing"),
        ("model_cache:\n- repo_id: ''", "2: model_cache[0].repo_id", "is empty"),
        ("model_cache:\n- repo_id: [a/b]", "2: model_cache[0].repo_id", "got a list, expected a string"),
        ("model_cache:\n- repo_id: 12", "2: model_cache[0].repo_id", 'Quote it: repo_id: "12"'),
        ("model_cache: []\nhf_cache: []", "2: hf_cache", "`model_cache` on line 1 is the same thing"),
        ("model_cache: [{repo_id: a/b}]\nweights: [1]", "2: weights", "line 1"),
        ("hf_cache: [{repo_id: a/b}]\nweights: [{}]", "2: weights", "`hf_cache` cannot be used together"),
        ("model_cache: [{repo_id: a/b}]\nweights: hello", "2: weights", "cannot be used together"),
        (
            "model_cache:\n- repo_id: a/b\n  allow_pattern: []",
            "3: model_cache[0].allow_pattern",
            "mean allow_patterns?",
        ),
        ("model_cache:\n- repo_id: a/b\n  zzz: []", "3: model_cache[0].zzz", "Known are repo_id"),
        ("model_cache:\n- repo_id: a/b\n  runtime_folder:", "3: model_cache[0].runtime_folder", "unknown key"),
        ("model_cache:\n- source: a/b", "2: model_cache[0].source", "Did you mean repo_id?"),
        ("model_cache:\n- repo_id: a/b\n  1: x", "3: model_cache[0].1", "unknown key"),
        ("model_cache:\n- repo_id: a/b\n  ? [x]\n  : y", "3: model_cache[0]", "a key that is no name"),
        ("model_cache:\n- <<: 5\n  repo_id: a/b", "2: model_cache[0]", "`<<` brings 5"),
        ("model_cache:\n- repo_id: a/b\n  kind: gcs", "3: model_cache[0].kind", "a plain repo id is hf"),
        ("model_cache:\n- repo_id: gs://b\n  kind: hf", "3: model_cache[0].kind", "gs:// is gcs"),
        ("model_cache:\n- repo_id: gs://b\n  kind: gs", "3: model_cache[0].kind", "Did you mean gcs?"),
        ("model_cache:\n- repo_id: a/b\n  kind: azure", "3: model_cache[0].kind", "a plain repo id is hf"),
        ("model_cache:\n- repo_id: a/b\n  use_volume: true", "2: model_cache[0]", "use_volume without volume_folder"),
        (
            "model_cache:\n- repo_id: a/b\n  use_volume: 'true'",
            "3: model_cache[0].use_volume",
            "expected true or false",
        ),
        ("model_cache:\n- repo_id: a/b\n  use_volume: 1", "3: model_cache[0].use_volume", "got 1"),
        ("model_cache: 1\nmodel_cache: 2", "2: model_cache", "given twice, on line 1 and on line 2"),
        (
            "model_cache:\n- repo_id: a/b\n  revision: x\n  revision: y",
            "4: model_cache[0].revision",
            "on line 3 and on",
        ),
        ("data_dir: [a]", "1: data_dir", "expected a string"),
        ("data_dir: 5", "1: data_dir", "Quote it"),
        ("data_dir: x\ndata_dir: y", "2: data_dir", "given twice"),
        ("environment_variables: [a]", "1: environment_variables", "expected a mapping"),
        ("environment_variables:\n  HF_HOME: 5", "2: environment_variables.HF_HOME", 'Quote it: HF_HOME: "5"'),
        ("environment_variables:\n  HF_HUB_CACHE: {}", "2: environment_variables.HF_HUB_CACHE", "expected a string"),
        ("environment_variables:\n  HF_HOME: ''", "2: environment_variables.HF_HOME", "is empty"),
        ("environment_variables:\n  HF_HOME: a\n  HF_HOME: b", "3: environment_variables.HF_HOME", "given twice"),
        ("weights: {source: a}", "1: weights", "expected a list"),
        ("weights:\n- hf://a/b", "2: weights[0]", "expected a mapping"),
    ],
)
def test_a_wrong_shape_is_refused_at_its_line(text: str, start: str, says: str, tmp_path: Path) -> None:
    check(tmp_path, text, start, says)


@pytest.mark.parametrize(
    "written", ["2024", "0123456", "1:30", "no", "2024-01-01", "1.10", "0x1F", "true", ".inf", "9" * 60]
)
def test_a_revision_that_yaml_does_not_read_as_text_is_shown_as_written(written: str, tmp_path: Path) -> None:
    text = f"model_cache:\n- repo_id: a/b\n- repo_id: c/d\n  revision: {written}"
    check(tmp_path, text, "4: model_cache[1].revision", f"YAML reads {written} as")
    check(tmp_path, text, "4: model_cache[1].revision", f'Quote it: revision: "{written}"')


@pytest.mark.parametrize(
    "revision",
    ["../../../etc", "a..b", "/main", "main/", "a b", "a:b", "v1~1", "v^", "a//b", "@", "a@{1}", ".hidden", "x/.y",
     "x.lock", "a*", "end.", "a\\b", "a[b"],
)  # fmt: skip
def test_a_revision_that_git_cannot_have_is_refused(revision: str, tmp_path: Path) -> None:
    check(tmp_path, f"model_cache:\n- repo_id: a/b\n  revision: '{revision}'", "3: model_cache[0].revision", "git")
    if "@" not in revision and " " not in revision:
        check(tmp_path, f"model_cache:\n- repo_id: 'hf://a/b@{revision}'", "2: model_cache[0].repo_id", "git")


@pytest.mark.parametrize(
    ("repo_id", "says"),
    [
        ("a/b/c", "more than one '/'"),
        ("datasets/a/b", "more than one '/'"),
        ("a//b", "more than one '/'"),
        ("-a/b", "is no repo id"),
        ("a/b c", "is no repo id"),
        ("a/", "is no repo id"),
        ("a--b", "'--' or '..'"),
        ("a/b..c", "'--' or '..'"),
        ("a/b.git", "Remove the '.git'."),
        ("café/x", "is no repo id"),
        ("a/" + "b" * 97, "at most 96"),
        ("a/b@v1", "Write hf://a/b@v1"),
        ("./weights", "Write a local folder as file://PATH."),
        ("/srv/weights", "file://PATH"),
        ("hf:a/b", "Begin it with hf://."),
        ("az:/acc/box", "'az:' is not followed by '//'"),
        ("https:/h/w.bin?q=hush", "Begin it with https://."),
        ("hf://", "is no repo id"),
        ("hf:///a/b", "more than one '/'"),
        ("hf://a/b/", "more than one '/'"),
        ("hf://a/b@", "nothing follows the '@'"),
        ("s3://", "no bucket name"),
        ("s3:///p", "no bucket name"),
        ("gs://b*/p", "a wildcard in the bucket name 'b*'"),
        ("gs://b[0]/p", "a wildcard in the bucket name"),
        ("s3://b ucket", "is no bucket name"),
        ("s3://b--use1-az4--x-s3/m", "'b--use1-az4--x-s3' names an S3 directory bucket"),
        ("s3://p--use1-az4--xa-s3", "'p--use1-az4--xa-s3' names an S3 directory bucket"),
        ("s3://../x", "is no bucket name"),
        ("s3://b@x/p", "it holds a user name or password"),
        ("gs://b/p/../q", "'.' or '..' in the prefix"),
        ("GS://b", "Did you mean gs://?"),
        ("s3a://b", "Did you mean s3://?"),
        ("ftp://b", "unknown scheme 'ftp'"),
        ("b c://x", "no scheme"),
        ("azure://", "no account name"),
        ("azure://acc", "no container name"),
        ("azure://acc//m", "no container name"),
        ("azure://acc*/box/m", "a wildcard in the account name 'acc*'"),
        ("azure://acc/box*/m", "a wildcard in the container name 'box*'"),
        ("az://Acc/box", "'Acc' is no account name (3 to 24 lower-case letters and digits)"),
        ("az://acc.blob.core.windows.net/box", "Write az://ACCOUNT/CONTAINER/PREFIX."),
        ("az://acc/my--box/m", "'my--box' is no container name"),
        ("az://acc/-box/m", "'-box' is no container name"),
        ("azure://acc/box/m/../n", "'.' or '..' in the prefix"),
        ("azure://acc/box/m?sv=1&sig=hush", "it holds a signature or token (sv)"),
        ("azure://acc/box?SIG=hush", "it holds a signature or token (sig)"),
        ("s3://box?X-Amz-Signature=hush", "it holds a signature or token (x-amz-...)"),
        ("cw://box/m?a=1&X-Amz-Security-Token=hush", "it holds a signature or token (x-amz-...)"),
        ("gs://box/m?X-Goog-Signature=hush", "it holds a signature or token (x-goog-...)"),
        ("hf://org/name?token=hush", "it holds a signature or token (token)"),
        ("htps://h/w.bin?token=hush", "it holds a signature or token (token)"),
        ("file://m?token=hush", "it holds a signature or token (token)"),
        ("r2://weights/m", "Write r2://ACCOUNT_ID.BUCKET/PREFIX."),
        ("r2://.weights/m", "the id of the account, '.', the name of the bucket"),
        ("r2://0a1b./m", "'0a1b.' is no bucket name"),
        ("r2:///0a1b.weights", "no bucket name"),
        ("r2://0a1b.weights@v1/m", "it holds a user name or password"),
        ("r2://" + "a" * 64 + ".weights", "is no bucket name"),
        ("r2://0a1b." + "w" * 192, "is no bucket name"),
        ("r2://0a1b.weights/m/../n", "'.' or '..' in the prefix"),
        ("cw://my.weights", "'my.weights' is no bucket name (3 to 63 lower-case letters, digits, '-')"),
        ("cw://Weights", "Write cw://BUCKET/PREFIX."),
        ("cw://my_weights/m", "is no bucket name"),
        ("cw://ab", "is no bucket name"),
        ("cw://-abc", "is no bucket name"),
        ("cw://abc-", "is no bucket name"),
        ("cw:///m", "no bucket name"),
        ("https://huggingface.co/org/name", "Write org/name."),
        ("http://x.y/m.bin", "http:// is not supported"),
        ("file://", "no folder or file named"),
        ("file:///", "no folder or file named"),
        ("file://~/w", "'~' is not expanded"),
        ("file://.", "ends in no name"),
        ("file://a/..", "ends in no name"),
        ("file://a/.truss_cache", "our own records"),
    ],
)
def test_a_source_that_cannot_be_is_refused(repo_id: str, says: str, tmp_path: Path) -> None:
    text = f"model_cache:\n- repo_id: '{repo_id}'"
    check(tmp_path, text, "2: model_cache[0].repo_id", says)


TOKEN = "hf_" + "hunter2" * 5


@pytest.mark.parametrize(
    "uri",
    [
        *(
            f"{scheme}://{held}@{rest}"
            for scheme, rest in [
                *((scheme, "b/p") for scheme in ("s3", "gs", "gcs", "azure", "r2", "cw", "ftp", "file")),
                *((scheme, "huggingface.co/org/name") for scheme in ("https", "http")),
                ("hf", "org/name@v1"),
            ]
            for held in ("AK:hunter2", ":hunter2", "hunter2:", "u:hun@hunter2")
        ),
        "s3://AK:hunter2/hunter2+@b/p",
        "s3://hunter2@b",
        "https://hunter2@huggingface.co/org/name",
        f"hf://{TOKEN}@org/name",
        f"hf://user:{TOKEN}@org/name",
    ],
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: Any, tmp_path: Path) -> None:
    for text in (
        f"model_cache:\n- repo_id: '{uri}'",
        f"weights:\n- source: '{uri}'\n  mount_location: /m",
    ):
        message = str(refused(tmp_path, text))
        hint = refused(tmp_path, text).hint
        assert "hunter2" not in f"{message}{hint}"
        assert message.endswith(": it holds a user name or password")
        assert (hint or "").startswith("Credentials do not belong into a URI")


@pytest.mark.parametrize(
    "repo_id",
    [
        *("u:hunter2@org/name", f"{TOKEN}@org/name", "u:hunter2@s3://b/p", "AK:hunter2@b"),
        *("//u:hunter2@h/w", "https//u:hunter2@h/w", "https:/u:hunter2@h/w", "https:/h/w?token=hunter2"),
        *("org/name?token=hunter2", "s3:b?X-Amz-Signature=hunter2", "https:/h/w?q=hunter2"),
    ],
)
def test_credentials_without_a_scheme_are_not_repeated(repo_id: str, tmp_path: Path) -> None:
    error = refused(tmp_path, f"model_cache:\n- repo_id: '{repo_id}'")
    assert "hunter2" not in f"{error}{error.hint}"


@pytest.mark.parametrize(
    "uri", ["hf://gpt2@v1", "hf://org/name@refs/pr/1", "s3://b/p@v1", "file://./a@b/w", "file://a@b/w"]
)
def test_an_at_sign_that_holds_no_credential_is_taken(uri: str) -> None:
    assert find_store(parse_repo_id(uri).source.scheme)


@pytest.mark.parametrize("field", ["allow_patterns", "ignore_patterns"])
@pytest.mark.parametrize(
    ("written", "item", "says"),
    [
        ("'*.bin'", "", "expected a list of patterns"),
        ("{a: b}", "", "got a mapping"),
        ("5", "", "got 5"),
        ("['*.bin', 5]", "[1]", 'Quote it: - "5"'),
        ("[no]", "[0]", "YAML reads no as true or false"),
        ("[null]", "[0]", "got nothing, expected a string"),
        ("[['*']]", "[0]", "got a list"),
        ("['']", "[0]", "is empty"),
        ('["a\\0b"]', "[0]", "NUL"),
        (f"['{'a' * 4097}']", "[0]", "is longer than 4,096 characters"),
    ],
)
def test_patterns_are_a_list_of_texts(field: str, written: str, item: str, says: str, tmp_path: Path) -> None:
    text = f"model_cache:\n- repo_id: a/b\n  {field}: {written}"
    check(tmp_path, text, f"3: model_cache[0].{field}{item}", says)


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("/abs", "is absolute"),
        ("..", "leaves its folder"),
        ("a/../b", "leaves its folder"),
        (".", "is the model cache itself"),
        ("./.", "is the model cache itself"),
        (".truss_cache", "our own records"),
        ("a/.Truss_Cache/b", "our own records"),
        ("a\\0b", "control character U+0000"),
        ("a\\nb", "control character U+000A"),
        ("", "is empty"),
    ],
)
def test_a_volume_folder_stays_in_the_model_cache(folder: str, says: str, tmp_path: Path) -> None:
    for use in ("true", "false"):
        text = f'model_cache:\n- repo_id: a/b\n  use_volume: {use}\n  volume_folder: "{folder}"'
        check(tmp_path, text, "4: model_cache[0].volume_folder", says)


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("models/a", "is relative"),
        ("~/a", "is relative"),
        ("/", "the root folder"),
        ("//./", "the root folder"),
        ("/models/../etc", "leaves its folder"),
        ("/models/.truss_cache", "our own records"),
        ("/a\\0", "control character"),
    ],
)
def test_a_mount_location_is_an_absolute_folder_of_its_own(folder: str, says: str, tmp_path: Path) -> None:
    text = f'weights:\n- source: hf://a/b\n  mount_location: "{folder}"'
    check(tmp_path, text, "3: weights[0].mount_location", says)


@pytest.mark.parametrize("name", ["a/b", "../token", "..", ".", "a b", "", "a\\0", "x" * 254])
def test_the_name_of_a_secret_is_no_path(name: str, tmp_path: Path) -> None:
    text = f'model_cache:\n- repo_id: a/b\n  runtime_secret_name: "{name}"'
    check(tmp_path, text, "3: model_cache[0].runtime_secret_name", "")
    text = f'weights:\n- source: hf://a/b\n  mount_location: /m\n  auth_secret_name: "{name}"'
    check(tmp_path, text, "4: weights[0].auth_secret_name", "")


@pytest.mark.parametrize(
    ("lines", "start", "says"),
    [
        ("mount_location: /m", "2: weights[0]", "source is missing"),
        ("source: hf://a/b", "2: weights[0]", "mount_location is missing"),
        ("source: a/b\n  mount_location: /m", "2: weights[0].source", "Write hf://a/b."),
        ("source: hf://a/b\n  mount_location: /m\n  revision: x", "4: weights[0].revision", "hf://org/name@REVISION"),
        ("source: s3://b/p@v1\n  mount_location: /m", "2: weights[0].source", "s3:// has no @revision"),
        ("source: http://b/p\n  mount_location: /m", "2: weights[0].source", "http:// is not supported"),
        ("source: hf://a/b\n  mount_location: /m\n  auth: x", "4: weights[0].auth", "expected a mapping"),
        ("source: hf://a/b\n  mount_location: /m\n  auth: {foo: x}", "4: weights[0].auth.foo", "unknown key"),
        (
            "source: hf://a/b\n  mount_location: /m\n  auth: {auth_method: AWS_ODIC}",
            "4: weights[0].auth.auth_method",
            "Did you mean AWS_OIDC?",
        ),
        (
            "source: hf://a/b\n  mount_location: /m\n  auth: {auth_method: CUSTOM_SECRET}",
            "4: weights[0].auth",
            "CUSTOM_SECRET without auth_secret_name",
        ),
        (
            "source: hf://a/b\n  mount_location: /m\n  auth_secret_name: x\n  auth: {auth_secret_name: x}",
            "5: weights[0].auth.auth_secret_name",
            "here and on line 4",
        ),
        ("source: s3://b\n  mount_location: /m\n  auth: {}", "4: weights[0].auth", "auth_method is missing"),
        (
            "source: s3://b\n  mount_location: /m\n  auth: {aws_oidc_role_arn: r, aws_oidc_region: e}",
            "4: weights[0].auth",
            "auth_method is missing",
        ),
        (
            "source: s3://b\n  mount_location: /m\n  auth: {auth_method: AWS_OIDC, auth_secret_name: x}",
            "4: weights[0].auth.auth_secret_name",
            "AWS_OIDC takes no auth_secret_name",
        ),
    ],
)
def test_a_wrong_weights_entry_is_refused(lines: str, start: str, says: str, tmp_path: Path) -> None:
    check(tmp_path, f"weights:\n- {lines}", start, says)


ROLES = {
    "AWS_OIDC": ("aws_oidc_role_arn", "aws_oidc_region"),
    "AWS_ASSUME_ROLE": ("aws_assume_role_arn", "aws_assume_role_region"),
    "GCP_OIDC": ("gcp_oidc_service_account", "gcp_oidc_workload_id_provider"),
}


@pytest.mark.parametrize("method", ROLES)
@pytest.mark.parametrize("empty", [None, "''", "null"])
def test_a_role_wants_both_of_its_fields(method: str, empty: str | None, tmp_path: Path) -> None:
    for missing in ROLES[method]:
        fields = {name: "x" for name in ROLES[method]} | {missing: empty}
        written = ", ".join(f"{name}: {text}" for name, text in fields.items() if text)
        text = f"weights:\n- source: s3://b\n  mount_location: /m\n  auth: {{auth_method: {method}, {written}}}"
        check(tmp_path, text, "4: weights[0].auth", f"{method} without {missing}")


@pytest.mark.parametrize("method", ["CUSTOM_SECRET", *ROLES])
def test_a_method_takes_no_field_of_another_one(method: str, tmp_path: Path) -> None:
    fields = {"CUSTOM_SECRET": ("auth_secret_name",), **ROLES}
    for other in (name for names in fields.values() for name in names if name not in fields[method]):
        written = ", ".join(f"{name}: x" for name in (*fields[method], other))
        text = f"weights:\n- source: s3://b\n  mount_location: /m\n  auth: {{auth_method: {method}, {written}}}"
        check(tmp_path, text, f"4: weights[0].auth.{other}", f"{method} takes no {other}")


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ("repo_id: a/b", "repo_id: a/b", "the same as"),
        ("repo_id: a/b", "repo_id: hf://a/b@main", "the same as"),
        ("repo_id: gs://b/p", "repo_id: gcs://b/p/", "the same as"),
        ("repo_id: a/b, allow_patterns: [x, y]", "repo_id: a/b, allow_patterns: [y, x, x]", "the same as"),
        ("repo_id: file://w", "repo_id: file://w/", "the same as"),
        ("repo_id: file://a/w", "repo_id: file://b/w", "'w' goes to the same folder as"),
        ("repo_id: file://a/w", "repo_id: a/b, use_volume: true, volume_folder: w", "'w' goes to the same folder as"),
        (
            "repo_id: a/b, use_volume: true, volume_folder: x/y",
            "repo_id: c/d, use_volume: true, volume_folder: ./x//y/",
            "volume_folder 'x/y' goes to the same folder as",
        ),
    ],
)
def test_entries_that_take_each_others_place_are_refused_with_both_lines(
    first: str, second: str, says: str, tmp_path: Path
) -> None:
    text = f"model_cache:\n- repo_id: other/one\n- {{{first}}}\n- {{{second}}}"
    check(tmp_path, text, "4: model_cache[2]", f"{says} model_cache[1] on line 3")


@pytest.mark.parametrize(
    "text",
    [
        'model_cache:\n- repo_id: a/b\n  "x\\ny\\e[2J": 1',
        'model_cache: ["a\\nb"]',
        'model_cache:\n- repo_id: !!int "a\\nb"',
        'model_cache:\n- repo_id: !x "a\\e[2Jb"',
        'model_cache:\n- repo_id: "a\\e[2Jb"',
        "model_cache: '" + "x" * 5000 + "'",
    ],
)
def test_a_message_is_one_short_printable_line_whatever_the_file_holds(text: str, tmp_path: Path) -> None:
    error = refused(tmp_path, text)
    assert str(error).isprintable()
    assert (error.hint or "").isprintable()
    assert len(str(error)) < 300 + len(str(tmp_path))


def test_equal_mount_locations_are_refused_with_both_lines(tmp_path: Path) -> None:
    item = "- source: hf://a/{}\n  mount_location: {}\n"
    text = "weights:\n" + item.format("b", "/m/x") + item.format("c", "/m//./x/")
    check(tmp_path, text, "4: weights[1]", "mount_location '/m/x' is that of weights[0] on line 2")


@pytest.mark.parametrize(
    "entries",
    [
        "[{repo_id: a/b}, {repo_id: a/b, revision: v1}]",
        "[{repo_id: a/b}, {repo_id: a/b, use_volume: true, volume_folder: x}]",
        "[{repo_id: a/b, allow_patterns: []}, {repo_id: a/b}]",
        "[{repo_id: a/b, use_volume: true, volume_folder: x}, {repo_id: a/b, use_volume: true, volume_folder: x/y}]",
        "[{repo_id: gs://b/p}, {repo_id: s3://b/p}]",
    ],
)
def test_entries_that_only_may_meet_are_left_to_their_listings(entries: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"model_cache: {entries}")
    assert len(load_config(path).entries) == 2
