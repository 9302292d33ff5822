def repetition(response, section):
    return 0.0
