from .run import Retries as Retries
