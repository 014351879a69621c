"""The files of organisations: uploaded, checked, kept, and gone when their time is over."""

from finetune_service.files.records import FileRecord, UploadRecord
from finetune_service.files.store import FileStore
from finetune_service.files.uploads import Uploads
from finetune_service.files.validations import Validations

__all__ = ["FileRecord", "FileStore", "UploadRecord", "Uploads", "Validations"]
