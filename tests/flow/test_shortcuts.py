"""Requests that are answered beside the router, compared with the router's answers."""

import gzip
import json
import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from sqlalchemy import URL

from tests.flow.test_raw_sockets import connect, read_all
from tests.process import until
from tests.service import ADMIN_KEY, READ_KEY, TOKEN, Service, a_report, running_service
