import io
import tarfile

import pytest

from local_mode.files import FileError, unpack


def pack(name: str, kind: bytes = tarfile.REGTYPE) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, "../out", 2 * (kind == tarfile.REGTYPE)
        tar.addfile(member, io.BytesIO(b"in"))
    stream.seek(0)
    return stream


@pytest.fixture(params=["as it is", "before 3.10.12 and 3.11.4"])
def python(request, monkeypatch):
    if request.param != "as it is":
        extract = tarfile.TarFile.extract

        def extractall(self, path=".", members=None, *, numeric_owner=False):
            raise AssertionError("without a filter, it must not be used")

        def extract_one(self, member, path="", set_attrs=True, *, numeric_owner=False):
            self.extraction_filter = lambda member, _: member
            extract(self, member, path, set_attrs, numeric_owner=numeric_owner)

        monkeypatch.delattr(tarfile, "data_filter", raising=False)
        monkeypatch.setattr(tarfile.TarFile, "extractall", extractall)
        monkeypatch.setattr(tarfile.TarFile, "extract", extract_one)


@pytest.mark.usefixtures("python")
class TestUnpack:
    def test_files(self, tmp_path):
        unpack(pack("code/inference.py"), tmp_path, "s3://b/model.tar.gz")
        assert (tmp_path / "code/inference.py").read_text() == "in"

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("../out", tarfile.REGTYPE),
            ("a/../../out", tarfile.REGTYPE),
            ("link", tarfile.SYMTYPE),
            ("pipe", tarfile.CHRTYPE),
        ],
    )
    def test_nothing_leads_out(self, tmp_path, name, kind):
        folder = tmp_path / "in"
        folder.mkdir()
        with pytest.raises(FileError, match=r"s3://b/model\.tar\.gz cannot be unpacked"):
            unpack(pack(name, kind), folder, "s3://b/model.tar.gz")
        assert list(tmp_path.iterdir()) == [folder]
        assert list(folder.iterdir()) == []
