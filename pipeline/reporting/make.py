from pipeline.reporting.report import make_report  # noqa
